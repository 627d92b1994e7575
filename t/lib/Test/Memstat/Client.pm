# A small HTTP client that returns an answer exactly as it was sent.
package Test::Memstat::Client;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw(time);

# How long a client waits for an answer, in seconds. Then the test fails.
my $PATIENCE = 60;

sub new {
    my ($class, $port) = @_;
    my $socket = IO::Socket::INET->new(
        PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp', Timeout => $PATIENCE,
    ) or die "cannot connect to 127.0.0.1:$port: $!\n";
    return bless { socket => $socket, read => '' }, $class;
}

sub write {
    my ($self, $bytes) = @_;
    local $SIG{PIPE} = 'IGNORE';
    $self->{socket}->syswrite($bytes) // die "cannot write: $!\n";
    return $self;
}

sub close { return $_[0]{socket}->close }

# Sends a request. Options: headers (a list of lines), body.
sub send {
    my ($self, $method, $path, %with) = @_;
    my @lines = ("$method $path HTTP/1.1", 'Host: localhost', @{ $with{headers} // [] });
    push @lines, 'Content-Length: ' . length $with{body} if defined $with{body};
    return $self->write(join("\r\n", @lines, '', '') . ($with{body} // ''));
}

# Reads one answer. Returns a hash with status, headers (lower case), order (their names as sent), body.
sub receive {
    my ($self, $method) = @_;
    my $deadline = time + $PATIENCE;
    $self->_more($deadline) until $self->{read} =~ s/^(.*?)\r\n\r\n//s;
    my ($first, @lines) = split /\r\n/, $1;
    my ($status) = $first =~ m{^HTTP/1\.[01] (\d{3})} or die "not an HTTP answer: $first\n";
    my %answer = (status => $status, headers => {}, order => [], body => '', head => $1);
    for (@lines) {
        my ($name, $value) = /^([^:]+):\s*(.*)$/ or die "not a header: $_\n";
        $answer{headers}{ lc $name } = $value;
        push @{ $answer{order} }, $name;
    }
    return \%answer if ($method // '') eq 'HEAD' || $status == 204 || $status == 304;

    if (($answer{headers}{'transfer-encoding'} // '') eq 'chunked') {
        while (1) {
            $self->_more($deadline) until $self->{read} =~ s/^(\w+)\r\n//;
            my $length = hex $1;
            $self->_more($deadline) until length $self->{read} >= $length + 2;
            $answer{body} .= substr $self->{read}, 0, $length;
            $self->{read} = substr $self->{read}, $length + 2;
            last unless $length;
        }
    }
    elsif (defined(my $length = $answer{headers}{'content-length'})) {
        $self->_more($deadline) until length $self->{read} >= $length;
        $answer{body} = substr $self->{read}, 0, $length;
        $self->{read} = substr $self->{read}, $length;
    }
    else {
        1 while $self->_more($deadline, 1);
        ($answer{body}, $self->{read}) = ($self->{read}, '');
    }
    return \%answer;
}

# Waits until the answer begins.
sub begin {
    my ($self) = @_;
    my $deadline = time + $PATIENCE;
    $self->_more($deadline) until length $self->{read};
    return $self;
}

# Returns whether the answer has begun.
sub has_begun { return length $_[0]{read} || IO::Select->new($_[0]{socket})->can_read(0) }

# Returns whether the server has closed the connection and there is nothing left to read.
sub at_end {
    my ($self) = @_;
    return !length $self->{read} && !$self->_more(time + $PATIENCE, 1);
}

sub _more {
    my ($self, $deadline, $end_is_fine) = @_;
    my $left = $deadline - time;
    die "no answer in $PATIENCE s\n"
        unless $left > 0 && IO::Select->new($self->{socket})->can_read($left);
    my $n = $self->{socket}->sysread($self->{read}, 65536, length $self->{read});
    die "cannot read: $!\n" unless defined $n;
    die "the connection was closed before the answer was complete\n" unless $n || $end_is_fine;
    return $n;
}

1;
