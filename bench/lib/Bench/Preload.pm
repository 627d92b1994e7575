# A library of bench/lib that is preloaded into a server, and the memory that it shares with the benchmark.
package Bench::Preload;

use strict;
use warnings;

use File::Temp;

use Bench ();
use Test::Memstat::Build ();

# Builds the library from bench/lib/NAME.c, with a number of bytes to share.
sub new {
    my ($class, $name, $size) = @_;
    my $library = Test::Memstat::Build::build("bench/lib/$name.c", "$name.so", qw(-shared -fPIC));
    my $file = File::Temp->new(TMPDIR => 1);
    syswrite $file, "\0" x $size;
    # Workers run as another user.
    chmod 0666, "$file";
    return bless { library => $library, file => $file, size => $size }, $class;
}

# Returns the environment for a server that preloads the library.
sub env { return "LD_PRELOAD=$_[0]{library}\nBENCH_SHARED=$_[0]{file}\n" }

# Returns the contents of the shared memory.
sub read {
    my ($self) = @_;
    sysseek $self->{file}, 0, 0;
    sysread $self->{file}, my $bytes, $self->{size};
    return $bytes;
}

# Returns the contents of the shared memory, and sets it to zeros.
sub take {
    my ($self) = @_;
    my $bytes = $self->read;
    sysseek $self->{file}, 0, 0;
    syswrite $self->{file}, "\0" x $self->{size};
    return $bytes;
}

1;
