"""A script for a child process. It stands alone in its folder, because the folder of a script is searched first."""
