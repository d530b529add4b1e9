// The query service, asked by this page; ETags are the browser's to keep.
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const given = new URLSearchParams(location.hash.slice(1));
for (const name of ["read", "write", "project"]) {
  if (given.get(name)) sessionStorage.setItem(name, given.get(name));
}
if (given.size) history.replaceState(null, "", location.pathname + location.search); // a token is not for the history
export const token = (name) => sessionStorage.getItem(name);
export const project = () => sessionStorage.getItem("project");

let asking = null;

function askForToken() {
  asking ??= new Promise((done) => {
    const dialog = document.getElementById("ask");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem("read", document.getElementById("token").value.trim());
      document.getElementById("token").value = "";
      asking = null;
      done();
    }, {once: true});
    dialog.showModal();
  });
  return asking;
}

export function address(path, parameters) {
  const at = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of Array.isArray(value) ? value : [value]) if (each !== "" && each !== null && each !== undefined) at.append(name, each);
  }
  return path + "?" + at;
}

// Asked afresh, an answer is of now; else it is that of before where its data are the same.
export async function ask(path, parameters = {}, afresh = false) {
  for (;;) {
    const headers = token("read") ? {authorization: "Bearer " + token("read")} : {};
    let answer;
    try {
      answer = await fetch(address(path, parameters), {headers, cache: afresh ? "no-store" : "default"});
    } catch {
      throw new Problem(0, "The query service cannot be reached.");
    }
    if (answer.status === 401) {
      await askForToken();
      continue;
    }
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Problem(answer.status, told.detail || `The query service answered ${answer.status}.`);
    return told;
  }
}
