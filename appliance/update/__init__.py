"""Updates of the appliance's own image: bundles, the two slots, and the trial that a new version goes through."""
