// Mouse, pen and fingers on the picture, as what they mean: a tap, a line, a box, a look around.

const STILL = 5; // CSS pixels that a tap may move
const SLICE = 14; // CSS pixels of two fingers for a slice
const WHEEL = 40; // units of the wheel for a slice

/**
 * Listen to a surface above the viewer's picture.
 *
 * @param surface element that gets the pointers
 * @param viewer Viewer
 * @param on {tool(): string, tap(place, isOpposite), line(places, isOpposite), box(places, isOpposite),
 *            colour(isOpposite), contrast(dx, dy), moved()}; `isOpposite` with Shift
 */
export function listen(surface, viewer, on) {
  const pointers = new Map();
  let action = null;
  let wheel = 0;

  surface.addEventListener("pointerdown", (event) => {
    surface.focus({ preventScroll: true });
    capture(surface, event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (pointers.size > 1) {
      viewer.setSketch(null);
      action = { kind: "two", plane: action?.plane ?? "axial", slices: 0, ...spread(pointers) };
      return;
    }
    const place = viewer.placeAt(event.clientX, event.clientY);
    const start = [event.clientX, event.clientY];
    if (!place) return;
    surface.dataset.plane = place.plane;
    const kind = event.button === 2 ? "contrast" : place.plane === "render" ? "turn" : on.tool();
    action = { kind, plane: place.plane, start, last: start, points: [start], places: [place], isTap: true };
    action.isOpposite = event.shiftKey;
  });

  surface.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId) || !action) return;
    const here = [event.clientX, event.clientY];
    pointers.set(event.pointerId, here);
    if (action.kind === "two") {
      if (pointers.size > 1) moveTwo();
      return;
    }
    action.isTap &&= Math.hypot(here[0] - action.start[0], here[1] - action.start[1]) <= STILL;
    if (action.isTap) return;
    const [dx, dy] = [here[0] - action.last[0], here[1] - action.last[1]];
    action.last = here;
    if (action.kind === "turn") viewer.turn(dx, dy);
    else if (action.kind === "contrast") on.contrast(dx, dy);
    else if (action.kind === "scribble" || action.kind === "box") draw(here);
    else look(here);
  });

  surface.addEventListener("pointerup", (event) => {
    pointers.delete(event.pointerId);
    const done = action;
    if (pointers.size || !done) return;
    action = null;
    viewer.setSketch(null);
    if (done.kind === "two" || done.kind === "turn" || done.kind === "contrast") return;
    if (done.kind === "scribble") on.line(done.places, done.isOpposite);
    else if (done.kind === "box" && !done.isTap) on.box([done.places[0], done.places.at(-1)], done.isOpposite);
    else if (done.kind === "click" && done.isTap) on.tap(done.places[0], done.isOpposite);
    else if (done.isTap) look(done.start);
  });

  surface.addEventListener("pointercancel", (event) => {
    pointers.delete(event.pointerId);
    action = null;
    viewer.setSketch(null);
  });

  surface.addEventListener("contextmenu", (event) => event.preventDefault());

  surface.addEventListener(
    "wheel",
    (event) => {
      const place = viewer.placeAt(event.clientX, event.clientY);
      if (!place) return;
      event.preventDefault();
      if (event.ctrlKey || place.plane === "render") {
        viewer.zoom(Math.exp(-event.deltaY / 400), place.plane);
        return;
      }
      wheel += event.deltaY;
      const slices = Math.trunc(wheel / WHEEL);
      wheel -= slices * WHEEL;
      if (slices) viewer.scroll(place.plane, -slices);
      on.moved();
    },
    { passive: false },
  );

  function look([x, y]) {
    const place = viewer.placeAt(x, y);
    if (place?.plane !== action?.plane && action) return; // stay in the view where the drag began
    if (place && place.plane !== "render") viewer.lookAt(place);
    on.moved();
  }

  function draw(here) {
    const place = viewer.placeAt(...here);
    if (place?.plane !== action.plane) return;
    action.points.push(here);
    action.places.push(place);
    viewer.setSketch({ kind: action.kind, points: action.points, colour: on.colour(action.isOpposite) });
  }

  function moveTwo() {
    const now = spread(pointers);
    viewer.zoom(now.apart / action.apart, action.plane);
    action.apart = now.apart;
    const slices = Math.trunc((now.middle - action.middle) / SLICE);
    if (slices && action.plane !== "render") {
      action.middle += slices * SLICE;
      viewer.scroll(action.plane, -slices);
      on.moved();
    }
  }
}

/** How far two fingers are apart, and how far down their middle is. */
function spread(pointers) {
  const [[x1, y1], [x2, y2]] = [...pointers.values()];
  return { apart: Math.hypot(x1 - x2, y1 - y2) || 1, middle: (y1 + y2) / 2 };
}

function capture(surface, pointer) {
  try {
    surface.setPointerCapture(pointer);
  } catch {
    // the pointer has gone already
  }
}
