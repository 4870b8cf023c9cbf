"""What a phone gets from this machine: an app in its browser, models, and jobs that measure."""
