"""The phone app: where its built files are, the routes that hand it out with the models, its address as a QR code."""
