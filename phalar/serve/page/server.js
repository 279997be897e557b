// What the server answers, or in a sentence why it does not.

export async function ask(path, form, signal) {
  let answer;
  try {
    answer = await fetch(path, { method: form ? "POST" : "GET", body: form, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(await whyNone(form));
  }
  if (answer.ok) return answer;
  const { detail } = await answer.json().catch(() => ({ detail: answer.statusText }));
  throw new Error(Array.isArray(detail) ? detail.map((each) => each.msg).join("; ") : detail);
}

async function whyNone(form) {
  for (const file of form?.values() ?? []) {
    if (!(file instanceof File)) continue;
    try {
      // A browser refuses a file that is not as it was when it was chosen.
      await file.slice(0, 1).arrayBuffer();
    } catch {
      return `${file.name} has changed on disk since you chose it, or is gone. Drop it again.`;
    }
  }
  return "The server does not answer. Is `phalar serve` still running?";
}
