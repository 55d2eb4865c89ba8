import { ask, drawAlways, erase, send } from "./common.js";

const job = document.getElementById("job").dataset;
const events = document.getElementById("events");

function show(kind, { at, text }) {
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date(1000 * at).toLocaleTimeString([], { hour12: false });
  const name = document.createElement("b");
  name.textContent = kind;
  item.append(time, " ", name, ` ${text}`);
  events.append(item);
  events.scrollTop = events.scrollHeight;
}

function watch() {
  const source = new EventSource(`/v1/jobs/${job.id}/events`);
  let last = Number(job.seen);
  for (const kind of ["state", "stage", "note", "cancel"]) {
    source.addEventListener(kind, (event) => {
      const number = Number(event.lastEventId);
      if (number <= last) return;
      last = number;
      const data = JSON.parse(event.data);
      show(kind, data);
      if (kind === "state") {
        const state = document.getElementById("state");
        state.textContent = data.text.split(" ")[0];
        state.className = `state ${state.textContent}`;
      }
    });
  }
  source.addEventListener("progress", (event) => {
    const { stage, done, total } = JSON.parse(event.data);
    const bar = document.getElementById("progress");
    document.getElementById("stage").textContent = total ? `${stage}, ${done} of ${total}` : stage || "waiting";
    if (total) bar.value = done / total;
    else bar.removeAttribute("value");
  });
  source.addEventListener("end", () => {
    source.close();
    location.reload();
  });
}

async function figures() {
  const place = document.getElementById("figures");
  if (!place) return;
  const found = await ask(place.dataset.source);
  for (const [name, charts] of Object.entries(found)) {
    const card = document.getElementById(`figure-${name}`);
    if (!card) continue;
    const first = card.querySelector(".plot");
    // Add all containers first: a figure takes the width that its container has when it is drawn.
    const places = charts.map((_, index) => (index ? first.cloneNode(false) : first));
    first.parentElement.append(...places);
    charts.forEach((chart, index) => drawAlways(places[index], chart));
  }
}

document.getElementById("cancel")?.addEventListener("click", async (event) => {
  event.target.disabled = true;
  await send(`/v1/jobs/${job.id}/cancel`, {});
});

document.getElementById("delete")?.addEventListener("click", async () => {
  const question = "Delete this job with its log and all its result files? This cannot be undone.";
  const place = document.getElementById("delete-error");
  if (await erase(`/v1/jobs/${job.id}`, question, place)) location.assign("/");
});

document.getElementById("log").addEventListener("toggle", async (event) => {
  if (!event.target.open) return;
  const log = await ask(`/v1/jobs/${job.id}/logs`);
  event.target.querySelector("pre").textContent = log.text || "The log is empty.";
});

if (["queued", "running"].includes(job.state)) watch();
window.addEventListener("load", figures);
