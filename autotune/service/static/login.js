"use strict";
const form = document.getElementById("login");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = document.getElementById("key").value.trim();
  const answer = await fetch("/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ key }),
  });
  if (answer.ok) {
    const target = new URL(form.dataset.next || "/", location.href);
    location.assign(target.origin === location.origin ? target.href : "/");
    return;
  }
  const place = form.querySelector(".error");
  place.textContent = (await answer.json()).error.message;
  place.hidden = false;
});
