"""The adapter between the library and the host: models, memory, progress, interrupts, folders and meshes."""
