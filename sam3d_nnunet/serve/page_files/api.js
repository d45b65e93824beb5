// Requests to the server. Each carries the header that pages of other sites can't send.

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let token = "new";
let key = new URLSearchParams(location.hash.slice(1)).get("key") ?? sessionStorage.getItem("sam3d-key");

export function useKey(text) {
  key = text;
  sessionStorage.setItem("sam3d-key", text);
}

/** Begin a session; `token` names it from now on. */
export async function begin() {
  end(); // the one before, whose place would be taken otherwise
  const session = await json("POST", "session");
  token = session.token;
  return session;
}

/** End the session while the page closes. */
export function end() {
  if (token !== "new") fetch("/page/session", { method: "DELETE", headers: headers(), keepalive: true });
  token = "new";
}

export async function json(method, path, content) {
  return (await request(method, path, content)).json();
}

export async function bytes(path) {
  return (await request("GET", path)).arrayBuffer();
}

/** Send a file; `sent` is called with the share that has arrived. */
export function upload(file, channel, sent) {
  return new Promise((resolve, reject) => {
    const http = new XMLHttpRequest();
    http.open("PUT", `/page/upload/${channel}?name=${encodeURIComponent(file.name)}`);
    for (const [name, value] of Object.entries(headers())) http.setRequestHeader(name, value);
    http.upload.onprogress = (event) => sent(event.loaded / event.total);
    http.onerror = () => reject(new Refusal(0, UNREACHABLE));
    http.onload = () => (http.status < 400 ? resolve() : reject(new Refusal(http.status, sentence(http.responseText))));
    http.send(file);
  });
}

const UNREACHABLE = "The server does not answer. Check that sam3d serve is still running.";

async function request(method, path, content) {
  const more = content === undefined ? {} : { "Content-Type": "application/json" };
  const options = { method, headers: { ...headers(), ...more }, body: content && JSON.stringify(content) };
  let answer;
  try {
    answer = await fetch(`/page/${path}`, options);
  } catch {
    throw new Refusal(0, UNREACHABLE);
  }
  if (!answer.ok) throw new Refusal(answer.status, sentence(await answer.text()));
  return answer;
}

function headers() {
  return { "X-SAM3D-Page": token, ...(key && { Authorization: `Bearer ${key}` }) };
}

function sentence(text) {
  try {
    const { detail } = JSON.parse(text);
    if (typeof detail === "string") return detail;
  } catch {
    // no JSON: something between the server and the page has answered
  }
  return "The server could not answer this request.";
}
