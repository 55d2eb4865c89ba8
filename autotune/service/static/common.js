// Shared by the pages: requests to the service, and its figures drawn in the page's colours.

export async function ask(path, options = {}) {
  const answer = await fetch(path, { credentials: "same-origin", ...options });
  const body = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw new Error(body.error ? body.error.message : `The server returned status ${answer.status}.`);
  return body;
}

export function send(path, body, headers = {}) {
  return ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
}

// Delete after a question; the error is shown in `place`. Returns whether it was deleted.
export async function erase(path, question, place) {
  if (!window.confirm(question)) return false;
  try {
    await ask(path, { method: "DELETE" });
    return true;
  } catch (error) {
    place.textContent = error.message;
    place.hidden = false;
    return false;
  }
}

export function complain(form, error) {
  const place = form.querySelector(".error");
  place.textContent = error ? error.message : "";
  place.hidden = !error;
}

export function draw(place, figure) {
  const style = getComputedStyle(document.documentElement);
  const [text, soft, line] = ["--text", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
  // The grey of the figures suits a white background; replace it by the page's own.
  figure = JSON.parse(JSON.stringify(figure).replaceAll("#666666", soft));
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
  const layout = {
    ...figure.layout,
    xaxis: { ...axis, ...figure.layout.xaxis },
    yaxis: { ...axis, ...figure.layout.yaxis },
    font: { color: text, family: "system-ui, sans-serif", size: 12 },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    title: { ...figure.layout.title, x: 0, xanchor: "left", font: { size: 13 } },
    margin: { l: 55, r: 15, t: figure.layout.title.text ? 45 : 15, b: 45 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 1, xanchor: "right" },
  };
  return window.Plotly.react(place, figure.data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
}

// Redraw when the colour scheme changes between light and dark.
export function drawAlways(place, figure) {
  draw(place, figure);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(place, figure));
}

export function seconds(value) {
  const units = [["s", 1], ["ms", 1e-3], ["µs", 1e-6]];
  const [name, scale] = units.find(([, each]) => value >= each) || ["ns", 1e-9];
  return `${Number((value / scale).toPrecision(3))} ${name}`;
}
