import { ask, drawAlways } from "./common.js";

window.addEventListener("load", async () => {
  const place = document.getElementById("comparison");
  if (place) drawAlways(place.querySelector(".plot"), await ask(place.dataset.source));
});
