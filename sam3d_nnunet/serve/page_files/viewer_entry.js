// What the page uses of NiiVue. build.mjs bundles it.
export { MULTIPLANAR_TYPE, NVImage, Niivue, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";
