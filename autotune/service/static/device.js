import { complain, drawAlways, seconds, send } from "./common.js";

const form = document.getElementById("predict");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const size = (name) => Number(document.getElementById(name).value);
  const question = {
    device: form.dataset.device,
    tokens: size("tokens"),
    in_features: size("in_features"),
    out_features: size("out_features"),
    allow_extrapolation: document.getElementById("extrapolate").checked,
  };
  const button = form.querySelector("button");
  button.disabled = true;
  button.textContent = "Predicting …";
  try {
    complain(form, null);
    const found = await send("/v1/curve", question);
    document.getElementById("curve").hidden = false;
    document.getElementById("sources").textContent = `Source: ${found.sources.join("; ")} (${found.backend}, ${found.dtype})`;
    drawAlways(document.querySelector("#curve .plot"), found.figure);
    const rows = found.points.map((point) => {
      const row = document.createElement("tr");
      const cells = [point.form, seconds(point.latency_s), `${seconds(point.low_s)} – ${seconds(point.high_s)}`, point.ratio.toFixed(3), point.source];
      for (const text of cells) row.insertCell().textContent = text;
      return row;
    });
    const table = document.getElementById("estimates");
    table.tBodies[0].replaceChildren(...rows);
    table.hidden = false;
  } catch (error) {
    complain(form, error);
  } finally {
    button.disabled = false;
    button.textContent = "Predict";
  }
});

for (const button of document.querySelectorAll(".check-drift")) {
  button.addEventListener("click", async () => {
    const { backend, dtype, threads } = button.dataset;
    const spec = { device: form.dataset.device, backend, dtype };
    if (Number(threads)) spec.threads = Number(threads);
    button.disabled = true;
    try {
      const job = await send("/v1/jobs", { kind: "drift", spec });
      location.assign(`/jobs/${job.id}`);
    } catch (error) {
      const place = document.getElementById("drift-error");
      place.textContent = error.message;
      place.hidden = false;
      button.disabled = false;
    }
  });
}
