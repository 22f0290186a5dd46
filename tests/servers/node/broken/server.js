// A release whose dependency was forgotten.
require('package-of-the-next-release');
