// Browsers slow down timers of pages in the background, but not those of workers.
setInterval(() => postMessage("tick"), 15000);
