"""An invented sign language, and the animated figure that signs it."""
