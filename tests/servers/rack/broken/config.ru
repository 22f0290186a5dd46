# A release whose dependency was forgotten.
require "gem_of_the_next_release"

run ->(_env) { [200, { "Content-Length" => "7" }, ["broken\n"]] }
