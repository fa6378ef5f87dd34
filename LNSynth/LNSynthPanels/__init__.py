"""The panels of the module, one file each: they read widgets, ask LNSynthLogic, and show the answer."""
