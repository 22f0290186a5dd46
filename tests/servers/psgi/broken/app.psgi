# A release whose dependency was forgotten.
use Module::Of::The::Next::Release;

sub { [200, ['Content-Length' => 7], ["broken\n"]] };
