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
  document.addEventListener("htmx:responseError", (event) => {
    // A session that ended while the page was open: the server says where to sign in again.
    if (event.detail.xhr.status === 401) location.reload();
    else notice("failed");
  });
  document.addEventListener("htmx:afterRequest", (event) => {
    const box = document.getElementById("notices");
    if (event.detail.successful && box) box.replaceChildren();
  });

  // A form is sent once, however often its button is pressed.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.sent) return event.preventDefault();
    form.dataset.sent = "1";
    setTimeout(() => delete form.dataset.sent, 4000);
  });

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-sends]")) event.target.form.requestSubmit();
  });
})();
