"""The parts of the window: prompt, options, canvas, history, queue, components, header."""
