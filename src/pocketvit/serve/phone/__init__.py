"""The phone app: where its built files are, the routes that hand it out with the models, and its address in a QR code."""
