// The worker behind counter.js: told once where the tokenizer and its vocabulary are, then texts.
"use strict";

let tokenizer = null;

const load = async ({ library, vocabulary }) => {
  const [{ Tokenizer }, answer] = await Promise.all([import(library), fetch(vocabulary)]);
  if (!answer.ok) throw new Error(`${answer.status}`);
  return new Tokenizer(await answer.json(), {});
};

onmessage = async ({ data }) => {
  if (data.library) {
    tokenizer = load(data);
    return;
  }
  try {
    const { ids } = (await tokenizer).encode(data.text, { add_special_tokens: false });
    postMessage({ nr: data.nr, tokens: ids.length });
  } catch {
    postMessage({ failed: true });
  }
};
