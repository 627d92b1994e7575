# A program that a test runs next to nginx. Its output goes to a file, and it ends with the test.
package Test::Memstat::Child;

use strict;
use warnings;

use POSIX ();

# Starts a program.
sub new {
    my ($class, $output, @command) = @_;
    my $pid = fork // die "cannot fork: $!\n";
    return bless { pid => $pid, started_by => $$ }, $class if $pid;
    open STDIN,  '<', '/dev/null';
    open STDOUT, '>', $output;
    open STDERR, '>&', \*STDOUT;
    { exec @command }
    print STDERR "cannot run $command[0]: $!\n";
    POSIX::_exit(127);
}

sub stop {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;
    kill 'TERM', $pid;
    local $?;
    waitpid $pid, 0;
    return;
}

sub DESTROY {
    my ($self) = @_;
    local ($?, $@, $!);
    $self->stop if $self->{started_by} == $$;
    return;
}

1;
