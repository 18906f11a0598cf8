// Opens pages in a frame, one after the other, and sends the server what is wrong with them.
const asked = await (await fetch("/look.json")).json();
const frame = document.body.appendChild(document.createElement("iframe"));
frame.style.border = "0";
frame.height = 900;

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function open(address) {
  return new Promise((done) => {
    frame.onload = done;
    frame.src = address;
  });
}

function colour(text) {
  const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
  return [r, g, b, a];
}

function over([r, g, b, a], [x, y, z]) {
  return [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1];
}

function luminance(rgb) {
  const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// The colour behind an element; null where a picture lies there.
function behind(element, view) {
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    const style = view.getComputedStyle(at);
    if (style.backgroundImage !== "none") return null;
    const found = colour(style.backgroundColor);
    if (found[3] > 0) layers.push(found);
    if (found[3] === 1) break;
  }
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
}

function faint(page, view) {
  const faults = new Set();
  const texts = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || seen.has(element)) continue;
    seen.add(element);
    if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2 || element.closest("svg, mjx-assistive-mml, script, style")) continue;
    const style = view.getComputedStyle(element);
    const ground = behind(element, view);
    if (ground === null) continue;
    const pair = [luminance(over(colour(style.color), ground)), luminance(ground)].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5) - 0.005) {
      const name = element.tagName.toLowerCase() + [...element.classList].map((each) => "." + each).join("");
      faults.add(`${name} has a contrast of ${ratio.toFixed(2)}: ${style.color} on rgb(${ground.slice(0, 3).map(Math.round)})`);
    }
  }
  return faults;
}

function unnamed(page) {
  const faults = new Set();
  for (const each of page.querySelectorAll("button, input:not([type=hidden]), select, textarea, [role=button]")) {
    const label = each.labels?.length || each.getAttribute("aria-label") || each.title || each.value || each.innerText?.trim();
    if (!label && each.checkVisibility() && !each.querySelector("[aria-label], title"))
      faults.add(`${each.tagName.toLowerCase()}#${each.id}.${each.className} has no name`);
  }
  return faults;
}

async function look(address) {
  const faults = [];
  for (const [width, themes] of Object.entries(asked.widths)) {
    frame.width = width;
    await open(address);
    const page = frame.contentDocument, view = frame.contentWindow;
    if (page.querySelector("mjx-container, .math")) await view.MathJax?.startup?.promise;
    for (const theme of themes) {
      page.body.dataset.theme = theme;
      const room = page.documentElement.scrollWidth - view.innerWidth;
      if (room > 1) faults.push(`${width} pixels: ${room} too wide`);
      for (const fault of faint(page, view)) faults.push(`${theme}: ${fault}`);
    }
    for (const fault of unnamed(page)) faults.push(fault);
  }
  return [...new Set(faults)];
}

async function hits(word) {
  await open(`/search.html?q=${encodeURIComponent(word)}`);
  for (let waited = 0; waited < 20000; waited += 100) {
    await pause(100);
    const page = frame.contentDocument;
    if (/finished|found/i.test(page.querySelector(".search-summary")?.innerText ?? "")) break;
  }
  const links = [...frame.contentDocument.querySelectorAll("#search-results ul.search > li > a")];
  return links.slice(0, asked.hits).map((link) => new URL(link.href).pathname);
}

const tell = (...found) => fetch("/found", { method: "POST", body: JSON.stringify(found) });

frame.width = 1280;
for (const word of asked.words) await tell("words", word, await hits(word));
for (const address of asked.pages) await tell("pages", address, await look(address));
await tell("end");
