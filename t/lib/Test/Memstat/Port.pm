# Free ports of the loopback address, which no other test takes that runs at the same time.
package Test::Memstat::Port;

use strict;
use warnings;

use Exporter 'import';
use IO::Socket::INET;
use IO::Socket::UNIX;

our @EXPORT_OK = qw(free_port);

# Below the ports that the kernel gives to clients, where a connection of any test could take one.
use constant { FIRST => 10_000, LAST => 32_000 };

# A socket each by which this test holds its ports.
my @held;
my $next = FIRST + $$ * 37 % (LAST - FIRST);

# A port that is free, and stays so for this test until it ends. An abstract Unix socket of its name is
# the lock on it: the kernel takes the lock away with the process.
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
