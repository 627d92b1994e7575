# Common parts of the cases: a separate nginx with cases/NAME.conf, and the output.
#
# A line of the configuration that ends with variants in brackets, such as `# [before]` or
# `-- [before, larger]`, is used in these variants only. Port 8080 is replaced by a free port; the output
# has 8080 again.
#
# A case prints text and blocks. A block is a line `--- NAME`, a command, its output, and a line `---`.
# `make guide` inserts the blocks into doc/diagnosis.md.
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
#   --small         a small run, large enough for a test
#   --replies FILE  writes the reply of /memstat at each block, and the facts of the case, as JSON
my (%kept, $small, $replies);
while (defined(my $option = shift @ARGV)) {
    if    ($option eq '--small')            { $small   = 1 }
    elsif ($option eq '--replies' && @ARGV) { $replies = shift @ARGV }
    else                                    { die "usage: $0 [--small] [--replies FILE]\n" }
}
$| = 1;

sub small { return $small }

# Returns whether nginx has ngx_lua here.
sub has_lua { return !$ENV{TEST_NGINX_WITHOUT_LUA} }

# Starts nginx with the lines of a variant. Options: env (NAME=value lines), files (the contents of more
# files, by name below the root).
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

# Writes the configuration of the case instead of the configuration that a test would have.
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
        # A reload does not write served files again.
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

# Stops nginx. Dies if something went wrong.
sub end {
    my ($self) = @_;
    my @wrong = $self->stop;
    push @wrong, grep { /\[(?:alert|emerg)\]/ } split /\n/, $self->output;
    die map { "$_\n" } @wrong if @wrong;
    return;
}

# --- asking ---

# Returns the body of the answer to a request.
sub ask {
    my ($self, $path) = @_;
    my $answer = $self->get($path);
    die "$path: status $answer->{status}\n$answer->{body}" . $self->output if $answer->{status} != 200;
    return $answer->{body};
}

# Returns a reply of /memstat in which no worker's figures are older than this call. Waits for a worker
# that is too busy to answer at once.
sub reply {
    my ($self) = @_;
    return $self->wait_for('fresh figures', sub {
        my $reply = $self->fresh('/memstat?refresh=heap');
        my @old = grep { $_->{kind} eq 'worker' && $_->{age_ms} > 200 } @{ $reply->{processes} };
        return @old ? undef : $reply;
    });
}

# Returns the first worker that is not shutting down.
sub worker {
    my ($self, $reply) = @_;
    my ($worker) = grep { $_->{kind} eq 'worker' && $_->{state} eq 'active' } @{ $reply->{processes} };
    return $worker // die "no worker in the answer\n";
}

# Returns a connection to nginx with a small receive buffer, so that unread data stays in nginx.
sub narrow {
    my ($self) = @_;
    socket my $socket, Socket::PF_INET, SOCK_STREAM, 0 or die "cannot make a socket: $!\n";
    setsockopt $socket, SOL_SOCKET, SO_RCVBUF, pack('i', 4096) or die "cannot set SO_RCVBUF: $!\n";
    connect $socket, pack_sockaddr_in($self->port, inet_aton('127.0.0.1'))
        or die "cannot connect: $!\n";
    return $socket;
}

# Reads an answer to its end, by its Content-Length.
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

# Formats bytes as /memstat does, with three digits.
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

# Prints a block: the command as an operator would type it, and its output.
sub block {
    my ($self, $name, $command, $text) = @_;
    $text =~ s/^\n+|\s+$//g;
    my $port = ref $self ? $self->port : 8080;
    s/127\.0\.0\.1:$port\b/127.0.0.1:8080/g for $command, $text;
    print "--- $name\n", (length $command ? "\$ $command\n" : ''), "$text\n---\n\n";
    return;
}

# Prints a table as a block. The first row is the head.
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

# Prints the output of ps for the master's children as a block.
sub ps {
    my ($self, $name) = @_;
    my $master = $self->master;
    my $said   = `ps -o pid,rss,args --ppid $master`;
    return $self->block($name, 'ps -o pid,rss,args --ppid $(cat nginx.pid)', $said);
}

# Prints the text of /memstat without its first line as a block; with titles, only the tables that have
# them. Keeps a reply of about the same time under the name of the block.
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

# Keeps a value for the tests.
sub fact { my (undef, $name, $value) = @_; return $kept{facts}{$name} = $value }

END {
    if ($replies && !$?) {
        open my $file, '>', $replies or die "cannot write $replies: $!\n";
        print $file JSON::PP->new->utf8->encode(\%kept);
        close $file or die "cannot write $replies: $!\n";
    }
}

1;
