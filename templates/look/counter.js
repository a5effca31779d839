// How many tokens a text is, counted on this device by a worker: nothing of the text leaves it. What
// that takes is large, and loaded only when it is asked for.
(() => {
  "use strict";

  const counter = document.querySelector("[data-counter]");
  if (!counter) return;
  const { worker: script, library, vocabulary, said, loading, failed } = counter.dataset;
  const text = counter.querySelector("textarea");
  const button = counter.querySelector("button");
  const answer = counter.querySelector("[role=status]");
  let worker = null;
  let asked = 0;

  const tell = (words) => {
    answer.textContent = words;
  };

  const ask = () => {
    asked += 1;
    worker.postMessage({ nr: asked, text: text.value });
  };

  const fail = () => {
    worker.terminate();
    worker = null;
    button.hidden = false;
    tell(failed);
  };

  const hear = ({ data }) => {
    if (data.failed) return fail();
    // An answer to what was written before is none any more.
    if (data.nr !== asked) return;
    const number = new Intl.NumberFormat(document.documentElement.lang);
    const characters = [...text.value].length;
    tell(
      said
        .replace("{tokens}", number.format(data.tokens))
        .replace("{characters}", number.format(characters)),
    );
  };

  button.addEventListener("click", () => {
    button.hidden = true;
    tell(loading);
    worker = new Worker(script);
    worker.onmessage = hear;
    worker.onerror = fail;
    worker.postMessage({ library, vocabulary });
    ask();
    text.focus();
  });
  text.addEventListener("input", () => worker && ask());
})();
