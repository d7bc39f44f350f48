// Replaces the facts once a second with those that the proxy renders.
const main = document.querySelector("main");
const live = document.getElementById("live");

async function update() {
  try {
    const response = await fetch("/main", { cache: "no-store" });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const html = await response.text();
    const scrolled = main.querySelector(".scroll")?.scrollLeft ?? 0;
    if (html !== main.dataset.shown) {
      main.innerHTML = html;
      main.dataset.shown = html;
      const table = main.querySelector(".scroll");
      if (table) table.scrollLeft = scrolled;
    }
    live.textContent = "live";
    live.className = "on";
  } catch {
    live.textContent = "the proxy has ended or cannot be reached";
    live.className = "off";
  }
  setTimeout(update, 1000);
}

update();
