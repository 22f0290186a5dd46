# A PSGI application that names its release: RELEASE_DIR is read once, while booting.
use strict;
use warnings;
use File::Basename 'basename';

my $release = basename($ENV{RELEASE_DIR});

sub {
    my $env = shift;
    select undef, undef, undef, 0.05 if $env->{PATH_INFO} eq '/slow';
    my $body = "release=$release pid=$$\n";
    [200, ['Content-Type' => 'text/plain', 'Content-Length' => length $body], [$body]];
};
