# Starts the application of the slot that the loader chooses. No update changes this file.
import machine

import loader

loader.start(loader.Files(), loader.Nvs(), machine, loader.run)
