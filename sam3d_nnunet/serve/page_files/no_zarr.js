// Stands in for zarrita, which reads images in the cloud: the page opens none.
export {};
