"""One file per layout, ending in ``LAYOUT = Layout(name, recognise, read)``; its name is a word of names.LAYOUTS."""
