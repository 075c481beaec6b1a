"""Human raters: who said what, how far it is believed, what to ask next, and what comes out of it."""
