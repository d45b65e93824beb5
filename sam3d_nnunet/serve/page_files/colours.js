// Colours of classes: far apart on grey images, also for people who see red and green alike.

const CLASSES = [
  [255, 112, 77],
  [77, 175, 255],
  [255, 214, 64],
  [96, 220, 150],
  [226, 125, 255],
  [255, 160, 200],
  [150, 235, 240],
  [200, 180, 120],
];
const FINISHED = 128; // page_case.py adds it to finished objects

/** [red, green, blue] of the class at a place in the list, from 0 on. */
export function colour(place) {
  return CLASSES[place % CLASSES.length];
}

export function css(place) {
  return `rgb(${colour(place).join(" ")})`;
}

/** NiiVue's table from values of the picture to colours. */
export function labelTable() {
  const table = { R: [], G: [], B: [], A: [], I: [], labels: [] };
  for (let value = 0; value < 256; value++) {
    const finished = value > FINISHED;
    const place = (finished ? value - FINISHED : value) - 1;
    const [r, g, b] = place < 0 ? [0, 0, 0] : colour(place).map((c) => (finished ? Math.round(0.45 * c + 100) : c));
    table.R.push(r);
    table.G.push(g);
    table.B.push(b);
    table.A.push(value === 0 || value === FINISHED ? 0 : finished ? 170 : 255);
    table.I.push(value);
    table.labels.push("");
  }
  return table;
}
