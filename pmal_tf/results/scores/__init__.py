"""How unknown an image is, a file per score; larger is more likely unknown."""
