"use strict";

const clip = document.getElementById("clip");
const sound = document.getElementById("sound");
const stops = [...document.querySelectorAll(".trace, a.row")];

function move(step) {
  const here = stops.indexOf(document.activeElement);
  const next = stops[here < 0 ? (step > 0 ? 0 : stops.length - 1) : Math.min(Math.max(here + step, 0), stops.length - 1)];
  if (next) next.focus();
}

function follow(relation) {
  const link = document.querySelector(`a[rel=${relation}]`);
  if (link) link.click();
}

function hear() {
  if (!clip || !sound) return;
  clip.muted = !clip.muted;
}

async function send(route, values) {
  const answer = await fetch(route, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values ?? {}),
  });
  const said = await answer.json();
  if (!answer.ok) { alert(said.detail ?? answer.statusText); return null; }
  return said;
}

async function judge(trace, accepted) {
  if (!trace?.classList.contains("trace") || !trace.querySelector(".judge")) return;
  const said = await send("/label", { n: Number(trace.dataset.n), sample: Number(trace.dataset.sample), accepted });
  if (said) trace.dataset.label = said.accepted ? "accepted" : "rejected";
}

async function undo() {
  const said = document.querySelector(".judge") && await send("/undo");
  if (said?.question_id) location.reload();
}

const keys = {
  j: () => move(1), k: () => move(-1), ArrowRight: () => follow("next"), ArrowLeft: () => follow("prev"),
  a: () => judge(document.activeElement, true), r: () => judge(document.activeElement, false), u: undo, m: hear,
  " ": () => clip && (clip.paused ? clip.play() : clip.pause()),
  "/": () => document.querySelector("input[type=search]").focus(),
  Escape: () => document.getElementById("up")?.click(),
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea, button, video, audio");
  if (typing && event.key === "Escape") { event.target.blur(); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});

document.querySelectorAll("select").forEach((choice) => choice.addEventListener("change", () => choice.form.submit()));
document.querySelectorAll(".judge button").forEach((button) =>
  button.addEventListener("click", () => judge(button.closest(".trace"), button.value === "accept")));
sound?.addEventListener("click", hear);
clip?.addEventListener("volumechange", () => {
  if (!sound) return;
  sound.textContent = clip.muted ? "silent, as the teacher saw it" : "with sound, as the checker heard it";
  sound.setAttribute("aria-pressed", String(!clip.muted));
});
document.querySelector(".trace")?.focus({ preventScroll: true });
