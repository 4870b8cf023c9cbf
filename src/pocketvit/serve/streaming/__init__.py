"""A camera, a video or a folder, frame by frame: sources, the threads between them and the model, drawing, outputs."""
