"use strict";
const byId = (id) => document.getElementById(id);
const viewer = new niivue.Niivue({
  isRadiologicalConvention: true,
  sagittalNoseLeft: true,
  isNearestInterpolation: false,
  isAdditiveBlend: true, // green and magenta make white
  multiplanarShowRender: 0,
  isOrientCube: false,
  dragAndDropEnabled: false,
  crosshairColor: [1, 0.85, 0.3, 0.6],
  crosshairWidth: 0.5,
  backColor: [0, 0, 0, 1],
  show3Dcrosshair: true,
  logLevel: "error",
});
const COLOURS = { // label 0, liver, tumour
  reference: { R: [0, 0, 255], G: [0, 220, 225], B: [0, 70, 77], A: [0, 255, 255], I: [0, 1, 2] },
  prediction: { R: [0, 255, 72], G: [0, 40, 209], B: [0, 220, 255], A: [0, 255, 255], I: [0, 1, 2] },
};
const WINDOWS = { "abdomen": [-160, 240], "liver": [0, 180], "lung": [-1350, 150], "bone": [-450, 1050] };
let cases = [];

async function show(entry) {
  byId("problem").textContent = "";
  byId("place").textContent = `loading ${entry.case_id} …`;
  const [low, high] = WINDOWS[byId("window").value];
  try {
    await viewer.loadVolumes([
      { url: entry.image, colormap: "gray", cal_min: low, cal_max: high },
      { url: entry.reference, opacity: +byId("reference").value },
      { url: entry.prediction, opacity: +byId("prediction").value },
    ]);
    viewer.volumes[1].setColormapLabel(COLOURS.reference);
    viewer.volumes[2].setColormapLabel(COLOURS.prediction);
    viewer.updateGLVolume();
    byId("tumours").hidden = ![1, 2].some((i) => viewer.volumes[i].global_max > 1);
    byId("place").textContent = `${entry.case_id}: click to move the cross, scroll to go through the slices`;
    document.body.dataset.shown = entry.case_id;
  } catch (error) {
    byId("problem").textContent = `${entry.case_id}: ${error}`;
  }
}

function listen() {
  byId("case").addEventListener("change", (event) => show(cases[event.target.selectedIndex]));
  byId("window").addEventListener("change", (event) => {
    [viewer.volumes[0].cal_min, viewer.volumes[0].cal_max] = WINDOWS[event.target.value];
    viewer.updateGLVolume();
  });
  ["reference", "prediction"].forEach((id, i) => byId(id).addEventListener("input", (event) => {
    viewer.setOpacity(i + 1, +event.target.value);
  }));
  const planes = [...document.querySelectorAll("[data-planes]")];
  planes.forEach((button) => button.addEventListener("click", () => {
    planes.forEach((other) => other.setAttribute("aria-pressed", other === button));
    viewer.setSliceType(+button.dataset.planes);
  }));
  viewer.onLocationChange = (place) => {
    const [hu, reference, prediction] = place.values.map((v) => Math.round(v.value));
    const names = ["background", "liver", "tumour"];
    const mm = [...place.mm].slice(0, 3).map((x) => x.toFixed(1)).join(", ");
    byId("place").textContent = `${mm} mm (right, anterior, superior) · ${hu} HU · reference ${names[reference]}`
      + ` · prediction ${names[prediction]}`;
  };
}

async function main() {
  const table = await (await fetch("cases.json")).json();
  cases = table.cases;
  WINDOWS.abdomen = table.window_hu;
  for (const name of Object.keys(WINDOWS)) byId("window").add(new Option(`${name}, ${WINDOWS[name].join(" to ")} HU`, name));
  for (const entry of cases) byId("case").add(new Option(entry.case_id));
  await viewer.attachToCanvas(byId("view"));
  listen();
  const wanted = cases.findIndex((entry) => entry.case_id === decodeURIComponent(location.hash.slice(1)));
  byId("case").selectedIndex = Math.max(0, wanted);
  if (cases.length) await show(cases[Math.max(0, wanted)]);
  else byId("problem").textContent = "no case of this evaluation has a scan and a prediction";
}
main().catch((error) => { byId("problem").textContent = String(error); });
