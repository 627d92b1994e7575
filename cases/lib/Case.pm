# What the cases share: an nginx of their own with cases/NAME.conf, and what they print.
#
# A line of the configuration that ends with variants in brackets, such as `# [before]` or
# `-- [before, larger]`, is there in these variants only. Port 8080 is replaced by a free one, and
# in all that is printed it is 8080 again.
#
# What a case prints is text, and blocks: a line `--- NAME`, a command, what it says, a line `---`.
# `make guide` puts the blocks into doc/diagnosis.md.
package Case;

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../t/lib";
use parent 'Test::Memstat::Server';

use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(basename dirname);
use IO::Socket::INET;
use JSON::PP;
use Socket qw(inet_aton pack_sockaddr_in SOCK_STREAM SOL_SOCKET SO_RCVBUF);
use Time::HiRes qw(sleep);

our @EXPORT = qw(size say_line sum);

my $HERE = abs_path(dirname(__FILE__) . '/..');

# usage of each case: NAME [--small] [--replies FILE]
#   --small         as much as a test needs
#   --replies FILE  writes what /memstat said at each block, and the facts of the case, as JSON
my (%kept, $small, $replies);
while (defined(my $option = shift @ARGV)) {
    if    ($option eq '--small')            { $small   = 1 }
    elsif ($option eq '--replies' && @ARGV) { $replies = shift @ARGV }
    else                                    { die "usage: $0 [--small] [--replies FILE]\n" }
}
$| = 1;

sub small { return $small }

# Whether nginx has ngx_lua here.
sub has_lua { return !$ENV{TEST_NGINX_WITHOUT_LUA} }

# Starts nginx with the lines of a variant. Options: env (NAME=value lines), files (contents of further
# files, by their names below the root).
sub start {
    my ($class, $variant, %with) = @_;
    my $name = basename($0);
    open my $file, '<', "$HERE/$name.conf" or die "cannot read $name.conf: $!\n";
    my $conf = join '', map { of_variant($_, $variant) } <$file>;
    my $self = $class->new(main_config => $conf, env => $with{env} // '', files => $with{files} // {});
    $self->SUPER::start;
    $self->reply for 1 .. 2;
    return $self;
}

sub of_variant {
    my ($line, $variant) = @_;
    my ($variants) = $line =~ s/\s*(?:#|--) \[([\w, ]+)\]$// ? $1 : return $line;
    return (grep { $_ eq $variant } split /,\s*/, $variants) ? $line : '';
}

# The configuration of the case in place of that which tests put together.
sub write_conf {
    my ($self) = @_;
    my $root = $self->root;
    symlink dirname($self->module), "$root/modules" unless -l "$root/modules";
    open my $folders, '<', "$HERE/folders.conf" or die "cannot read folders.conf: $!\n";
    my %files = (
        %{ $self->{sections}{files} },
        'folders.conf' => join('', <$folders>),
        'nginx.conf'   => $self->{sections}{main_config},
    );
    for my $name (sort keys %files) {
        # What is served is not written again by a reload.
        next if $name =~ m{^html/} && -e "$root/$name";
        my $text = $files{$name};
        $text =~ s/127\.0\.0\.1:8080/$self->address(0)/ge;
        $text =~ s/127\.0\.0\.1:8081/$self->address(1)/ge;
        open my $file, '>', "$root/$name" or die "cannot write $name: $!\n";
        print $file $text;
        close $file or die "cannot write $name: $!\n";
    }
    return $self;
}

sub address { my ($self, $which) = @_; return '127.0.0.1:' . $self->port($which) }

# Ends nginx; dies when something went wrong on the way.
sub end {
    my ($self) = @_;
    my @wrong = $self->stop;
    push @wrong, grep { /\[(?:alert|emerg)\]/ } split /\n/, $self->output;
    die map { "$_\n" } @wrong if @wrong;
    return;
}

# --- asking ---

# What a location says.
sub ask {
    my ($self, $path) = @_;
    my $answer = $self->get($path);
    die "$path: status $answer->{status}\n$answer->{body}" . $self->output if $answer->{status} != 200;
    return $answer->{body};
}

# What /memstat says, all workers' figures no older than this call: it waits for one that is too busy
# to answer at once.
sub reply {
    my ($self) = @_;
    return $self->wait_for('fresh figures', 20, sub {
        my $reply = $self->fresh('/memstat?refresh=heap');
        my @old = grep { $_->{kind} eq 'worker' && $_->{age_ms} > 200 } @{ $reply->{processes} };
        return @old ? undef : $reply;
    });
}

# The first worker that does not shut down.
sub worker {
    my ($self, $reply) = @_;
    my ($worker) = grep { $_->{kind} eq 'worker' && $_->{state} eq 'active' } @{ $reply->{processes} };
    return $worker // die "no worker in the answer\n";
}

# A connection to nginx with little room at the client's end: what is not read stays with nginx.
sub narrow {
    my ($self) = @_;
    socket my $socket, Socket::PF_INET, SOCK_STREAM, 0 or die "cannot make a socket: $!\n";
    setsockopt $socket, SOL_SOCKET, SO_RCVBUF, pack('i', 4096) or die "cannot set SO_RCVBUF: $!\n";
    connect $socket, pack_sockaddr_in($self->port, inet_aton('127.0.0.1'))
        or die "cannot connect: $!\n";
    return $socket;
}

# Reads an answer to its end, of a length that it says.
sub drain {
    my ($self, $socket) = @_;
    my $read = '';
    until ($read =~ /\r\n\r\n/) { sysread $socket, $read, 4096, length $read or die "closed\n" }
    my ($length) = $read =~ /^Content-Length: (\d+)/mi or die "no length\n";
    my $left = $length - length($read =~ s/^.*?\r\n\r\n//sr);
    while ($left > 0) { $left -= sysread($socket, $read, 65536) || die "closed\n" }
    return;
}

# --- printing ---

# Bytes as /memstat prints them, three digits.
sub size {
    my ($bytes) = @_;
    return '?' unless defined $bytes;
    my @units = qw(B KiB MiB GiB);
    while (@units > 1 && $bytes >= 999.5) { $bytes /= 1024; shift @units }
    my $digits = $units[0] eq 'B' || $bytes >= 99.95 ? 0 : $bytes >= 9.995 ? 1 : 2;
    return sprintf "%.${digits}f %s", $bytes, $units[0];
}

sub sum { my $sum = 0; $sum += $_ for @_; return $sum }

sub say_line { print join('', @_), "\n"; return }

# Prints a block: the command as an operator would type it, and what it said.
sub block {
    my ($self, $name, $command, $text) = @_;
    $text =~ s/^\n+|\s+$//g;
    my $port = ref $self ? $self->port : 8080;
    s/127\.0\.0\.1:$port\b/127.0.0.1:8080/g for $command, $text;
    print "--- $name\n", (length $command ? "\$ $command\n" : ''), "$text\n---\n\n";
    return;
}

# A table of cells, the first row its head, as a block.
sub table {
    my ($self, $name, @rows) = @_;
    my @widths;
    for my $row (@rows) {
        for my $at (0 .. $#$row) {
            my $width = length $row->[$at];
            $widths[$at] = $width if $width > ($widths[$at] // 0);
        }
    }
    my $line = sub {
        my ($row) = @_;
        my @cells = map { sprintf $_ ? "%$widths[$_]s" : "%-$widths[$_]s", $row->[$_] } 0 .. $#$row;
        return join('  ', @cells) =~ s/\s+$//r;
    };
    return $self->block($name, '', join "\n", map { $line->($_) } @rows);
}

# What ps says of the processes below the master.
sub ps {
    my ($self, $name) = @_;
    my $master = $self->master;
    my $said   = `ps -o pid,rss,args --ppid $master`;
    return $self->block($name, 'ps -o pid,rss,args --ppid $(cat nginx.pid)', $said);
}

# What /memstat says as text, but for its first line; the tables with these titles only, where some are
# given. The same answer's figures are kept by the name of the block.
sub show {
    my ($self, $name, $query, @titles) = @_;
    $kept{$name} = $self->reply;
    my $path = "/memstat?$query&format=text";
    my $text = $self->ask($path) =~ s/\A[^\n]*\n(?!\n)/$&\n/r =~ s/^(?=Pages: )/\n/mr;
    my (undef, @parts) = split /\n\n/, $text;
    if (@titles) {
        @parts = grep { my $part = $_; grep { $part =~ /^\Q$_/ } @titles } @parts;
    }
    return $self->block($name, "curl '127.0.0.1:8080$path'", join "\n\n", @parts);
}

# Keeps something for the tests.
sub fact { my (undef, $name, $value) = @_; return $kept{facts}{$name} = $value }

END {
    if ($replies && !$?) {
        open my $file, '>', $replies or die "cannot write $replies: $!\n";
        print $file JSON::PP->new->utf8->encode(\%kept);
        close $file or die "cannot write $replies: $!\n";
    }
}

1;
