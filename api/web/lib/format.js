// Numbers, times and names as people read them.

export const percent = (share, digits = 1) => (share == null ? "–" : `${(100 * share).toFixed(digits)}%`);

export function points(difference) {
  if (difference == null) return "–";
  const rounded = (100 * difference).toFixed(1);
  return Number(rounded) === 0 ? "±0.0" : `${difference > 0 ? "+" : "−"}${rounded.replace("-", "")}`;
}

/** The class for a difference: green, red, or neither where it rounds to nothing. */
export const tone = (difference) => (Math.abs(difference ?? 0) < 0.0005 ? "soft" : difference > 0 ? "good" : "bad");

export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
}

export function roughly(seconds) {
  if (seconds < 45) return "less than a minute";
  if (seconds < 5400) return `about ${Math.max(1, Math.round(seconds / 60))} min`;
  return `about ${(seconds / 3600).toFixed(1)} h`;
}

/** As `roughly`, where there is little room. */
export function briefly(seconds) {
  if (seconds < 45) return "< 1 min";
  return seconds < 5400 ? `~ ${Math.max(1, Math.round(seconds / 60))} min` : `~ ${(seconds / 3600).toFixed(1)} h`;
}

export function bytes(number) {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let power = 0;
  while (number >= 1000 && power < units.length - 1) (number /= 1000), (power += 1);
  return `${power ? number.toFixed(number < 10 ? 1 : 0) : number} ${units[power]}`;
}

export const count = (number) => number.toLocaleString("en");

export const plural = (number, word, many = `${word}s`) => `${count(number)} ${number === 1 ? word : many}`;

export function number(value) {
  if (value == null) return "–";
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value)) return count(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

const timeOfDay = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

export const clock = (unix) => timeOfDay.format(unix * 1000);
export const when = (unix) => day.format(unix * 1000);

const STATUS_WORDS = {
  validating_files: "Checking",
  queued: "Waiting",
  running: "Running",
  paused: "Paused",
  succeeded: "Succeeded",
  failed: "Failed",
  cancelled: "Cancelled",
};

export function statusWord(job) {
  if (job.cancel_requested_at && !isOver(job)) return "Cancelling";
  if (job.pause_requested_at && !isOver(job) && job.status !== "paused") return "Pausing";
  return STATUS_WORDS[job.status] ?? job.status;
}

const isOver = (job) => ["succeeded", "failed", "cancelled"].includes(job.status);

export const jobName = (job) => job.suffix || nameInEvaluation(job) || job.id;

/** Jobs of an evaluation have no names of their own. */
function nameInEvaluation({ metadata, test_domains, seed }) {
  return metadata?.evaluation ? [metadata.method, ...test_domains, `seed ${seed}`].join(", ") : "";
}

const GROUP_WORDS = {
  trained_domains: "Trained domains",
  test_domains: "New domains",
  test_datasets: "Other datasets",
  test_images: "Test images",
  trained_classes: "trained classes",
  unseen_classes: "new classes",
  all_classes: "all classes",
};

export const groupWord = (name) => GROUP_WORDS[name] ?? name.replaceAll("_", " ");
export const phaseWord = (phase) => phase.replaceAll("_", " ");
