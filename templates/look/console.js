/* What the console's pages do in the browser, as components: their policy lets no expression of a
   page be evaluated as a script. */
"use strict";

// Before anything is painted; unfold goes on from here.
const kept = localStorage.getItem("adminTheme");
if (kept === '"dark"' || (kept !== '"light"' && matchMedia("(prefers-color-scheme: dark)").matches)) {
  document.documentElement.classList.add("dark");
}

document.addEventListener("alpine:init", () => {
  // Unfold's own.
  Alpine.data("theme", theme);
  Alpine.data("searchForm", searchForm);

  Alpine.data("sidebar", () => ({
    activeTab: "",
    sidebarMobileOpen: false,
    sidebarDesktopOpen: localStorage.getItem("sidebarDesktopOpen") !== "0",
    toggleSidebar() {
      if (window.matchMedia("(min-width: 80rem)").matches) {
        this.sidebarDesktopOpen = !this.sidebarDesktopOpen;
        localStorage.setItem("sidebarDesktopOpen", this.sidebarDesktopOpen ? "1" : "0");
      } else {
        this.sidebarMobileOpen = !this.sidebarMobileOpen;
      }
    },
  }));
});

// A session that ended while a page stayed open: the page is loaded anew, which leads to the sign-in.
document.addEventListener("htmx:responseError", (event) => {
  if (event.detail.xhr.status === 401) window.location.reload();
});
