"""The demonstration: the whole chain on one CT, as a web page."""
