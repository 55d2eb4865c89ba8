import { ask, complain, erase, send } from "./common.js";

const form = document.getElementById("tune");
const budgets = [...form.querySelectorAll(".pair input")].map((input) => input.name);

function spec() {
  const found = {};
  for (const input of form.querySelectorAll("input[name], select[name]")) {
    const value = input.value.trim();
    if (!value) continue;
    if (budgets.includes(input.name)) {
      const unit = document.getElementById(`${input.id}-unit`).value;
      found[input.name === "latency" ? "latency_budget" : input.name] = value + unit;
    } else {
      found[input.name] = input.type === "number" ? Number(value) : value;
    }
  }
  return found;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    complain(form, null);
    // The key prevents a second click or a repeated request from creating a second job.
    form.dataset.key ||= crypto.randomUUID();
    const job = await send("/v1/jobs", { kind: "tune", spec: spec() }, { "Idempotency-Key": form.dataset.key });
    location.assign(`/jobs/${job.id}`);
  } catch (error) {
    delete form.dataset.key;
    complain(form, error);
    button.disabled = false;
  }
});

for (const button of document.querySelectorAll(".delete-upload")) {
  button.addEventListener("click", async () => {
    const { name } = button.dataset;
    const path = `/v1/models/${name.replace("upload:", "")}`;
    const place = document.getElementById("upload-error");
    if (await erase(path, `Delete ${name}? This cannot be undone.`, place)) button.closest("tr").remove();
  });
}

// Keep the states of the listed jobs up to date.
async function refresh() {
  const rows = [...document.querySelectorAll("#jobs tbody tr")];
  const moving = rows.some((row) => ["queued", "running"].includes(row.dataset.state));
  if (moving && !document.hidden) {
    const page = await ask("/v1/jobs?limit=100").catch(() => ({ jobs: [] }));
    for (const job of page.jobs) {
      const row = rows.find((each) => each.dataset.id === job.id);
      if (!row || row.dataset.state === job.state) continue;
      row.dataset.state = job.state;
      const state = row.querySelector(".state");
      state.textContent = job.state;
      state.className = `state ${job.state}`;
    }
  }
  setTimeout(refresh, 2000);
}
refresh();
