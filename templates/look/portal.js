// What pages do beyond htmx. Everything can be read without it.
(() => {
  "use strict";

  const notice = (name) => {
    const box = document.getElementById("notices");
    const text = box && box.dataset[name];
    if (!text) return;
    const line = document.createElement("div");
    line.className = "alert alert-soft alert-warning";
    line.textContent = text;
    box.replaceChildren(line);
  };

  document.addEventListener("htmx:sendError", () => notice("offline"));
  document.addEventListener("htmx:responseError", () => notice("failed"));
  document.addEventListener("htmx:afterRequest", (event) => {
    const box = document.getElementById("notices");
    if (event.detail.successful && box) box.replaceChildren();
  });

  // Nobody looks: nothing is asked for. Seen again, it is brought up to date at once.
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden) event.preventDefault();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || !window.htmx) return;
    for (const part of document.querySelectorAll("[data-live]")) window.htmx.trigger(part, "seen");
  });

  // A form is sent once, however often its button is pressed.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.sent) return event.preventDefault();
    form.dataset.sent = "1";
    setTimeout(() => delete form.dataset.sent, 4000);
  });

  // What can be copied by a tap can be selected and saved without it.
  for (const button of document.querySelectorAll("[data-copies]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.copies).textContent.trim();
      await navigator.clipboard.writeText(text);
      button.textContent = button.dataset.copied;
    });
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-sends]")) event.target.form.requestSubmit();
  });
})();
