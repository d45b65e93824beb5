// The picture: three planes and 3-D by NiiVue, with the mask as a layer, and clicks drawn above it.
//
// NiiVue counts in fractions of the image (frac). The server gets RAS millimetres, which are exact for any affine.

import { MULTIPLANAR_TYPE, NVImage, Niivue, SHOW_RENDER, SLICE_TYPE } from "/page/assets/niivue.js";
import { css, labelTable } from "/page/assets/colours.js";

const PLANES = ["axial", "coronal", "sagittal"]; // in the order of NiiVue's SLICE_TYPE
const LAYOUTS = {
  all: SLICE_TYPE.MULTIPLANAR,
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
  render: SLICE_TYPE.RENDER,
};
const LABELS = 1002; // NIfTI's intent of label maps, which are drawn without colours in between
const OPTIONS = {
  interactive: false, // gestures.js listens instead
  dragAndDropEnabled: false,
  isOrientCube: false,
  isRadiologicalConvention: true,
  multiplanarLayout: MULTIPLANAR_TYPE.GRID,
  multiplanarShowRender: SHOW_RENDER.ALWAYS,
  multiplanarPadPixels: 6,
  tileMargin: 0,
  show3Dcrosshair: true,
  crosshairWidth: 0.3,
  crosshairWidthUnit: "percent",
  crosshairColor: [0.5, 0.83, 1, 0.55],
  fontColor: [0.75, 0.83, 0.88, 1],
  backColor: [0.035, 0.05, 0.065, 1],
  loadingText: "",
  logLevel: "error",
};

/** A place on the screen that shows a voxel: {plane, mm: [x, y, z], frac}; `plane` is "render" in 3-D. */

export class Viewer {
  constructor(picture, drawing) {
    this.picture = picture;
    this.drawing = drawing;
    this.clicks = [];
    this.sketch = null;
    this.opacity = 0.6;
  }

  /** Throws where the browser has no WebGL 2. */
  async start() {
    if (!document.createElement("canvas").getContext("webgl2")) {
      throw new Error("This browser can't show volumes, because WebGL 2 is missing or switched off. Use another browser.");
    }
    this.nv = new Niivue(OPTIONS);
    await this.nv.attachToCanvas(this.picture);
    const draw = this.nv.drawScene.bind(this.nv);
    this.nv.drawScene = () => {
      draw();
      this.drawMarks();
    };
    new ResizeObserver(() => this.isOpen && this.nv.drawScene()).observe(this.drawing);
  }

  get isOpen() {
    return Boolean(this.image);
  }

  /** Show another image, without a mask. `buffer` holds NIfTI. */
  async open(buffer) {
    const image = await NVImage.loadFromUrl({ url: buffer, name: "image.nii" });
    for (const volume of [...this.nv.volumes].reverse()) this.nv.removeVolume(volume);
    this.image = image;
    this.nv.addVolume(image);
    this.mask = NVImage.zerosLike(image, "uint8");
    Object.assign(this.mask.hdr, { scl_slope: 1, scl_inter: 0, intent_code: LABELS });
    this.mask.setColormapLabel(labelTable());
    this.nv.addVolume(this.mask);
    this.clicks = [];
    const middle = image.dimsRAS.slice(1, 4).map((n) => Math.floor(n / 2)); // a voxel's centre, never between two
    this.nv.scene.crosshairPos = this.nv.vox2frac(middle);
    this.resetZoom();
    this.setOpacity(this.opacity);
  }

  /** Replace the picture by another channel of the same image. */
  async showChannel(buffer) {
    const image = await NVImage.loadFromUrl({ url: buffer, name: "image.nii" });
    Object.assign(this.image, { img: image.img, hdr: image.hdr, cal_min: image.cal_min, cal_max: image.cal_max });
    Object.assign(this.image, { global_min: image.global_min, global_max: image.global_max });
    this.nv.updateGLVolume();
  }

  /** Write changed voxels of the mask: a box along (x, y, z), and runs of values in it, x fastest. */
  apply(changes) {
    if (!changes) return;
    const [[x0, x1], [y0, y1], [z0, z1]] = changes.box;
    const [width, height] = this.image.dims.slice(1, 3);
    let [x, y, z] = [x0, y0, z0];
    for (let i = 0; i < changes.runs.length; i += 2) {
      const value = changes.runs[i];
      let left = changes.runs[i + 1];
      while (left > 0) {
        const step = Math.min(left, x1 - x);
        const start = x + width * (y + height * z);
        this.mask.img.fill(value, start, start + step);
        left -= step;
        x += step;
        if (x === x1) [x, y] = [x0, y + 1];
        if (y === y1) [y, z] = [y0, z + 1];
      }
    }
    if (z > z1) throw new Error("The server sent more of the mask than fits into its box.");
    this.nv.updateGLVolume();
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    if (this.isOpen) this.nv.setOpacity(1, opacity);
  }

  setLayout(name) {
    this.nv.setSliceType(LAYOUTS[name]);
  }

  /** Shares of the range of intensities that are shown as black and white. */
  get contrast() {
    const { cal_min, cal_max, global_min, global_max } = this.image;
    const range = global_max - global_min || 1;
    return [(cal_min - global_min) / range, (cal_max - global_min) / range];
  }

  setContrast(darkest, brightest) {
    const { global_min, global_max } = this.image;
    const range = global_max - global_min || 1;
    this.image.cal_min = global_min + darkest * range;
    this.image.cal_max = global_min + Math.max(brightest, darkest + 0.005) * range;
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.nv.updateGLVolume());
  }

  // --- places ---

  /** What is at a place of the page, in CSS pixels; null between the views and beside the image. */
  placeAt(clientX, clientY) {
    if (!this.isOpen) return null;
    const [x, y] = this.pixel(clientX, clientY);
    const tile = this.nv.screenSlices.findIndex((slice) => contains(slice.leftTopWidthHeight, x, y));
    if (tile < 0) return null;
    const type = this.nv.screenSlices[tile].axCorSag;
    if (type > SLICE_TYPE.SAGITTAL) return { plane: "render" };
    const frac = this.nv.screenXY2TextureFrac(x, y, tile, true);
    return frac[0] < 0 ? null : { plane: PLANES[type], frac, mm: this.millimetres(frac) };
  }

  /** The crosshair, as a place in a plane. */
  crosshair(plane) {
    const frac = this.nv.scene.crosshairPos;
    return { plane, frac, mm: this.millimetres(frac) };
  }

  /** What the readout says: millimetres and intensity at the crosshair. */
  describeCrosshair() {
    const frac = this.nv.scene.crosshairPos;
    const voxel = this.nv.frac2vox(frac);
    const value = this.image.getValue(...voxel);
    const place = this.millimetres(frac).map((mm) => mm.toFixed(1));
    return `${place.join(", ")} mm (RAS) · intensity ${Number(value.toPrecision(5))}`;
  }

  lookAt(place) {
    this.nv.scene.crosshairPos = this.nv.vox2frac(this.nv.frac2vox(place.frac));
    this.nv.drawScene();
  }

  /** Move the crosshair by voxels along the patient's axes: to the right, to the front, up. */
  step(right, front, up) {
    this.nv.moveCrosshairInVox(right, front, up);
  }

  /** Go through the slices of a plane. */
  scroll(plane, slices) {
    const step = [0, 0, 0];
    step[2 - PLANES.indexOf(plane)] = slices;
    this.step(...step);
  }

  turn(dx, dy) {
    const { renderAzimuth, renderElevation } = this.nv.scene;
    this.nv.setRenderAzimuthElevation(renderAzimuth - dx * 0.6, Math.max(-90, Math.min(90, renderElevation + dy * 0.6)));
  }

  /** Zoom around the crosshair; 3-D zooms around its centre. */
  zoom(factor, plane) {
    if (plane === "render") {
      this.nv.setScale(Math.max(0.4, Math.min(4, this.nv.volScaleMultiplier * factor)));
      return;
    }
    const [x, y, z, before] = this.nv.scene.pan2Dxyzmm;
    const after = Math.max(1, Math.min(12, before * factor));
    const centre = this.nv.frac2mm(this.nv.scene.crosshairPos);
    const pan = [x, y, z].map((shift, axis) => (after === 1 ? 0 : shift + (before - after) * centre[axis]));
    this.nv.setPan2Dxyzmm([...pan, after]);
  }

  resetZoom() {
    this.nv.setScale(1);
    this.nv.setPan2Dxyzmm([0, 0, 0, 1]);
  }

  millimetres(frac) {
    return Array.from(this.nv.frac2mm(frac, 0, true)).slice(0, 3);
  }

  pixel(clientX, clientY) {
    const { left, top } = this.picture.getBoundingClientRect();
    const ratio = this.nv.uiData.dpr;
    return [(clientX - left) * ratio, (clientY - top) * ratio];
  }

  // --- marks above the picture ---

  /** `clicks`: {point: millimetres, place: of the class in the list, or -1 for background, isNew}. */
  setClicks(clicks) {
    this.clicks = clicks;
    this.drawMarks();
  }

  /** What is being drawn: {kind, points: [[clientX, clientY], ...], colour}; null for nothing. */
  setSketch(sketch) {
    this.sketch = sketch;
    this.drawMarks();
  }

  drawMarks() {
    const canvas = this.drawing;
    const ratio = window.devicePixelRatio || 1;
    const { width, height, left, top } = canvas.getBoundingClientRect();
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    if (!this.isOpen) return;
    for (const tile of this.nv.screenSlices.keys()) {
      for (const click of this.clicks) this.drawClick(pen, tile, click);
    }
    if (this.sketch) drawSketch(pen, this.sketch, left, top);
  }

  drawClick(pen, tile, click) {
    const type = this.nv.screenSlices[tile].axCorSag;
    if (type > SLICE_TYPE.SAGITTAL) return;
    const across = 2 - type;
    const frac = this.nv.mm2frac(click.point, 0, true);
    const slices = Math.abs(frac[across] - this.nv.scene.crosshairPos[across]) * this.image.dimsRAS[across + 1];
    if (slices > 1.5) return;
    const ratio = this.nv.uiData.dpr;
    const [x, y] = this.onScreen(tile, frac).map((pixels) => pixels / ratio);
    pen.globalAlpha = slices > 0.5 ? 0.45 : 1; // on the slice beside
    drawCross(pen, x, y, click.place);
    pen.globalAlpha = 1;
  }

  /** Device pixels of a place in a view, whatever its zoom: from where three points of the view are in the image. */
  onScreen(tile, frac) {
    const [left, top, width, height] = this.nv.screenSlices[tile].leftTopWidthHeight;
    const across = 2 - this.nv.screenSlices[tile].axCorSag;
    const [a, b] = [0, 1, 2].filter((axis) => axis !== across);
    const at = (right, down) => this.nv.screenXY2TextureFrac(left + width * right, top + height * down, tile, false);
    const [first, right, down] = [at(0.25, 0.25), at(0.75, 0.25), at(0.25, 0.75)]; // NiiVue refuses its own edges
    const [ra, rb, da, db] = [right[a] - first[a], right[b] - first[b], down[a] - first[a], down[b] - first[b]];
    const [fa, fb] = [frac[a] - first[a], frac[b] - first[b]];
    const size = 2 * (ra * db - rb * da);
    return [
      left + width * (0.25 + (fa * db - fb * da) / size),
      top + height * (0.25 + (ra * fb - rb * fa) / size),
    ];
  }
}

function contains([left, top, width, height], x, y) {
  const start = Math.min(left, left + width); // mirrored views have a negative width
  return x >= start && x <= start + Math.abs(width) && y >= top && y <= top + height;
}

function drawCross(pen, x, y, place) {
  const adds = place >= 0;
  pen.beginPath();
  pen.arc(x, y, 7, 0, 2 * Math.PI);
  pen.fillStyle = adds ? css(place) : "#10161b";
  pen.strokeStyle = adds ? "#10161b" : "#ffffff";
  pen.lineWidth = 2;
  pen.fill();
  pen.stroke();
  pen.beginPath();
  pen.moveTo(x - 3.5, y);
  pen.lineTo(x + 3.5, y);
  if (adds) {
    pen.moveTo(x, y - 3.5);
    pen.lineTo(x, y + 3.5);
  }
  pen.stroke();
}

function drawSketch(pen, { kind, points, colour }, left, top) {
  const [first, ...rest] = points.map(([x, y]) => [x - left, y - top]);
  pen.strokeStyle = colour;
  pen.lineWidth = kind === "box" ? 2 : 4;
  pen.lineJoin = pen.lineCap = "round";
  pen.beginPath();
  if (kind === "box") {
    const [x, y] = rest.at(-1) ?? first;
    pen.rect(first[0], first[1], x - first[0], y - first[1]);
  } else {
    pen.moveTo(...first);
    for (const point of rest.length ? rest : [first]) pen.lineTo(...point);
  }
  pen.stroke();
}
