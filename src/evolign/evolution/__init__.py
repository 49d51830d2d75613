"""Evolution: the loop, its memory, and the method around it."""
