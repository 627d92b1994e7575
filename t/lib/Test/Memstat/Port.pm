# Free ports of the loopback address that no other test running at the same time will take.
package Test::Memstat::Port;

use strict;
use warnings;

use Exporter 'import';
use IO::Socket::INET;
use IO::Socket::UNIX;

our @EXPORT_OK = qw(free_port);

# Below the ports that the kernel gives to clients, which the connection of any test could take.
use constant { FIRST => 10_000, LAST => 32_000 };

# The sockets by which this test holds its ports.
my @held;
my $next = FIRST + $$ * 37 % (LAST - FIRST);

# Returns a free port that stays reserved for this test until it ends. An abstract Unix socket with the
# port's number is the lock; the kernel releases it when the process ends.
sub free_port {
    for (FIRST .. LAST) {
        my $port = $next++;
        $next = FIRST if $next > LAST;
        my $lock = IO::Socket::UNIX->new(Local => "\0memstat-port-$port", Listen => 1) or next;
        IO::Socket::INET->new(LocalAddr => "127.0.0.1:$port", Listen => 1, ReuseAddr => 1) or next;
        push @held, $lock;
        return $port;
    }
    die "no free port\n";
}

1;
