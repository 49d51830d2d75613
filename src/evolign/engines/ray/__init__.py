"""The engine `ray`: pieces of work, dealt out to engines in Ray workers on any number of machines."""
