# Requests in succession: each function here returns a function that sends a number of requests.
package Bench::Requests;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT_OK = qw(connections http2 keepalive);

# On one connection, which is open when this returns.
sub keepalive {
    my ($t, $path) = @_;
    my $client = $t->connect;
    return sub { $client->send(GET => $path)->receive->{status} == 200 || die "$path fails\n" for 1 .. $_[0] };
}

# Each on its own connection.
sub connections {
    my ($t, $path) = @_;
    return sub { $t->get($path)->{status} == 200 || die "$path fails\n" for 1 .. $_[0] };
}

# Over HTTP/2, on a new connection for each call of the function.
sub http2 {
    my ($t, $path) = @_;
    my $url = 'http://127.0.0.1:' . $t->port(1) . $path;
    return sub {
        my ($count) = @_;
        my $said = `h2load -n $count -c 1 -m 1 '$url'`;
        die "h2load: $said\n" unless $said =~ / $count 2xx/;
    };
}

1;
