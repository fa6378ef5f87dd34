"""LN-DDPM and the six generators it is compared with, behind one interface, and how they are saved and loaded."""
