// The two halves of the page. Which one is open is part of the address, so that it can be sent.

const tabs = [...document.querySelectorAll("#tabs [role=tab]")];

// `onOpen(name)` is told which half is open, the first time included.
export function startTabs(onOpen) {
  const open = (tab) => {
    for (const one of tabs) {
      const isOpen = one === tab;
      one.setAttribute("aria-selected", String(isOpen));
      one.tabIndex = isOpen ? 0 : -1;
      panelOf(one).hidden = !isOpen;
    }
    onOpen(panelOf(tab).id);
  };
  const byAddress = () => open(tabs.find((tab) => `#${panelOf(tab).id}` === location.hash) ?? tabs[0]);
  for (const tab of tabs) {
    tab.addEventListener("click", () => {
      history.replaceState(null, "", tab === tabs[0] ? location.pathname + location.search : `#${panelOf(tab).id}`);
      open(tab);
    });
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
      next.focus();
      next.click();
    });
  }
  addEventListener("hashchange", byAddress);
  byAddress();
}

function panelOf(tab) {
  return document.getElementById(tab.getAttribute("aria-controls"));
}
