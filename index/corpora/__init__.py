"""One reader per source of radiographs and reports; each yields the same Record."""
